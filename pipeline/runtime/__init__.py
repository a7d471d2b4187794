"""Where and how things run, and what is said meanwhile; results do not depend on it beyond rounding."""

PACKAGE_DECIDES_NUMBERS = False          # so no run's digest of code holds these files
