"""Prints a table, with packages from the virtual environment in this folder."""

import sys

import humanize
import tabulate

rows = [["tabulate", tabulate.__version__], ["a million", humanize.intcomma(10**6)], ["from", sys.prefix]]
print(tabulate.tabulate(rows))
