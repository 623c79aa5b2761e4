"""From a segment's metadata, or a request, to what the network is given.

`attributes` holds the description and the p-MOS of an item and turns p-MOS into levels; AudioCraft's
`ConditioningProvider` encodes them with `conditioners`; `fuser` names the network's arguments; `model` joins these with
the network.
"""
