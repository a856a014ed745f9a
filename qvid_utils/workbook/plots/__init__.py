"""One function per figure, one style, which a figure of one's own has too once this is imported."""

import matplotlib as mpl

from ...startup import STYLE

mpl.rcParams.update(STYLE)
