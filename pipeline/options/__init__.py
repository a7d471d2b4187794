"""What code states of itself, read without importing it: types of options, constants, imports; words for mistakes."""

PACKAGE_DECIDES_NUMBERS = False          # so no run's digest of code holds these files
