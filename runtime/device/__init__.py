"""The device simulator: crossbar products on cells that are not ideal (docs/device.md).

``library`` names the devices; ``schema`` is the device file; ``programming``, ``drift``, ``read_noise`` and ``faults``
are the models of a cell, ``ir_drop`` and ``nonlinearity`` those of the array around it. All are pure functions of
conductances in uS and random numbers that the caller draws.
"""
