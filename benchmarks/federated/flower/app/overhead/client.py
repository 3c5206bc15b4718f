"""A client that adds noise to what it is given."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.federated.training_function import train

app = ClientApp()


@app.train()
def learn(message: Message, context: Context) -> Message:
    """One round: the vector in, the changed vector out, and how long that took."""
    (vector,) = message.content["arrays"].to_numpy_ndarrays()
    began = time.perf_counter()
    moved = train(np.asarray(vector), context.node_id % 2**32)
    metrics = MetricRecord({"num-examples": 100, "train_s": time.perf_counter() - began})
    content = RecordDict({"arrays": ArrayRecord([moved]), "metrics": metrics})
    return Message(content=content, reply_to=message)
