"""The methods by name."""

from .rules import RULES, Rule, rule
from .table import METHODS, Method, method

__all__ = ["METHODS", "RULES", "Method", "Rule", "method", "rule"]
