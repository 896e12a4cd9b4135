"""What the verdicts mean, in sentences with the run's own numbers."""

from var_core.hypotheses.recorded import NOT_TESTED
from var_core.hypotheses.results import CLAIMS, HypothesisName, Result, Verdicts


def meaning(verdicts: Verdicts, name: HypothesisName) -> str:
    """Say what came out of a hypothesis, pooled over layers, in one or two sentences."""
    rows = [row for row in verdicts.results if row.hypothesis == name and row.layer is None]
    reasons = [row.note.removeprefix(NOT_TESTED) for row in rows if row.note.startswith(NOT_TESTED)]
    parts = dict.fromkeys(part for reason in reasons for part in reason.split("; "))
    untested = f"Not tested: {'; '.join(parts)}."
    if reasons and all(row.statistic is None for row in rows if row.form != "detail"):
        return untested
    said = {"H1": _entropy, "H2": _zipf, "H3": _consistency, "H4": _coverage}[name](rows)
    return f"{said} {untested.replace('Not', 'Partly not', 1)}" if reasons else said


def meanings(verdicts: Verdicts) -> dict[HypothesisName, str]:
    """Say for every hypothesis what it claims, the verdicts as stated and corrected, and what came out."""
    said: dict[HypothesisName, str] = {}
    for name, claim in CLAIMS.items():
        forms: dict[str, list[str]] = {}
        for row in verdicts.headline():
            if row.hypothesis == name:
                forms.setdefault(row.form, []).append(row.verdict)
        outcome = "; ".join(f"{form}: {', '.join(dict.fromkeys(found))}" for form, found in forms.items())
        said[name] = f"{name}, {claim} ({outcome}). {meaning(verdicts, name)}"
    return said


def _entropy(rows: list[Result]) -> str:
    stated = next(row for row in rows if row.form == "as stated")
    plug_in = next(row for row in rows if row.variant.startswith("plug-in"))
    rarefied = next(row for row in rows if row.variant.startswith("rarefied") and row.form == "corrected")
    return (
        f"The rank correlation of a token's frequency with its mean router entropy is {_signed(stated.statistic)},"
        f" where {_signed(stated.threshold)} or less was expected. With the entropy of the experts really chosen it is"
        f" {_signed(plug_in.statistic)} as counted, but experts drawn without regard to the token would give"
        f" {_signed(plug_in.null_mean)}, because a rare token cannot show many experts; at equal numbers of"
        f" occurrences it is {_signed(rarefied.statistic)}, and {_signed(rarefied.null_mean)} without that regard."
    )


def _zipf(rows: list[Result]) -> str:
    line = next(row for row in rows if row.form == "as stated")
    fit = next(row for row in rows if row.variant == "goodness of fit of a power law")
    lognormal = next(row for row in rows if row.variant == "against lognormal, all types")
    load = next(row for row in rows if row.measure == "load max/mean")
    better = "cannot be told apart"
    if lognormal.p is not None and lognormal.statistic is not None and lognormal.p < 0.05:
        better = "the power law is likelier" if lognormal.statistic > 0 else "the lognormal is likelier"
    tail = "no power law could be fitted"
    if fit.p is not None:
        tail = f"a power law for the {fit.n:,} most frequent types has a goodness-of-fit p of {fit.p:.2g}"
    return (
        f"A straight line through ln rank and ln frequency explains {_percent(line.statistic)} of the variance, which"
        f" a lognormal sample would do too: {tail}, and of power law and lognormal over all types {better}."
        f" This is about tokens; the busiest expert has {_number(load.statistic)} times the mean load."
    )


def _consistency(rows: list[Result]) -> str:
    stated = next(row for row in rows if row.form == "as stated")
    others = [row for row in rows if row.variant == "other definition"]
    heldout = next(row for row in rows if row.form == "corrected")
    spread = " and ".join(f"{_number(row.statistic)} as {_name(row)}" for row in others)
    unseen = "On domains left out of the fit" if heldout.n_unit == "domains" else "On unseen text"
    return (
        f"The consistency of the {stated.n:,} most frequent token types is {_number(stated.statistic)} as"
        f" {_name(stated)} ({_number(stated.null_mean)} if routing ignored the token), but {spread}. {unseen}"
        f" their own most used experts hold {_percent(heldout.statistic)} of the slots; with table entries shuffled,"
        f" {_percent(heldout.null_mean)}."
    )


def _coverage(rows: list[Result]) -> str:
    stated = next(row for row in rows if row.form == "as stated")
    covered = next(row for row in rows if row.form == "corrected")
    promise = covered.measure.removeprefix("coverage at ")
    measure = promise.split()[0]
    realised = next(row for row in rows if row.measure == f"{measure} of the covered")
    table = next(row for row in rows if row.measure == measure and row.variant.startswith("token table"))
    blind = next(row for row in rows if row.measure == measure and row.variant.startswith("global table"))
    kept = "" if realised.statistic is None else f" (realised: {_percent(realised.statistic)})"
    return (
        f"Frequency and low entropy make {_percent(stated.statistic)} of decisions eligible. Chosen by agreement,"
        f" {_percent(covered.statistic)} of unseen decisions can be left to a token table with {promise}"
        f"{kept}. Over all unseen text the table's {measure} is {_number(table.statistic)}, that of the same experts"
        f" for every token {_number(blind.statistic)}, and with table entries shuffled {_number(table.null_mean)}."
    )


def _name(row: Result) -> str:
    return row.measure.removeprefix("mean ")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.2f}"


def _percent(value: float | None) -> str:
    return "an undefined share" if value is None else f"{100 * value:.1f} %"
