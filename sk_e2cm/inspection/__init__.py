"""Pictures of the trade-off and of who leaves where, and whether early exits pay."""

from ._exits import ExitDisplay
from ._measure import report
from ._races import TimeRatio
from ._report import Report
from ._tradeoff import TradeoffDisplay

__all__ = ["ExitDisplay", "Report", "TimeRatio", "TradeoffDisplay", "report"]
