#!/usr/bin/env python
"""The door to every management command in a clone; an installed package has the same as `ami-headend`."""

from ami_headend.__main__ import main

if __name__ == "__main__":
    main()
