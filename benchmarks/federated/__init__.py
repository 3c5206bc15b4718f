"""Learning together, measured.

aggregation   the integer sum against the machine's memory bandwidth, its memory, and FedAvg against Flower's
pfedme        FedAvg on pFedMe's Synthetic(0.5, 0.5), trained in WebAssembly, with each codec
robust        rules that bear liars, on handwritten digits
flower/       a round's overhead in Flower, in its simulation and as it is deployed
"""
