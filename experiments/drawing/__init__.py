"""What every picture is drawn with: one style, scans, curves; it knows no experiment."""
