"""`make kernels`, of the CPU: compile the C++ for this machine and say with what and where, or why it cannot be."""

from kernels.native import build


def main():
    print("\n".join(build.describe()))


if __name__ == "__main__":
    main()
