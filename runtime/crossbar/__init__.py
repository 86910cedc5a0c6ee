"""The arithmetic of a crossbar product with ideal cells (docs/crossbar.md).

``coding`` fixes the digits, ``rows`` the wordlines read together, ``cells`` turns weights into cells and
back, ``tile`` is the state of one array, ``converter`` is the converter and its steps, ``reference`` the slow
walk, ``product`` the fast equal of it, ``calibrate`` chooses steps from observed partial sums.
"""
