"""From params.yaml to one row per run; no torch. What is decided here stands in the rows themselves."""

PACKAGE_DECIDES_NUMBERS = False          # so no run's digest of code holds these files
