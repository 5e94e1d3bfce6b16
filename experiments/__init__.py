"""One module per result of the report: ``python -m experiments`` lists them."""
