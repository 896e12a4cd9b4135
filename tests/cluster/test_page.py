"""The published table of faults is what a run recorded, and all of it passed."""

import json

from cluster.page import PAGE, RECORDED, page


def test_the_page_is_its_record_s():
    record = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(record)
    assert record["faults"] and all(row["passed"] for row in record["faults"])
