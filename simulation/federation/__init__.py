"""Federated learning in one thread: the coordinator's and the devices' own cores on a virtual clock.

    learn.py       the command; world.py: everybody together, one seed
    device.py      a device without its machine; gym.py: its training, real, in WebAssembly
    coordinator.py the cloud's side without its process, which can be killed and started again
    shares.py      who has which examples; troubles.py: what goes wrong, when, and for whom

What is real: cores, gate, sums, codecs, journals, the disks of devices (in a scratch folder), every message
(through the wire format), and training. What is played: time, the network, artifacts on their way.
"""
