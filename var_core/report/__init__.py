"""The one-page summary, the captions of the HTML report, and the numbers in the documentation."""
