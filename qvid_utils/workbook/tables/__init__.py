"""From records to numbers: metrics, paired comparisons, the papers' tables beside ours."""
