"""Where Runfold answers otherwise than MLflow 3.17 on purpose: what, and why.

Every key is used by a fixed sequence, and no sequence may differ without naming one of them. Most
are the ids of the project's list of limits (`L-…`): MLflow loses or damages the input without a
word there, or fails with a 5xx.
"""

DIFFERENCES: dict[str, str] = {
    "no-5xx": "Where MLflow fails with a 5xx on what a client sent, Runfold refuses it with a 4xx.",
    "wrong-type": "A field of another JSON type is refused; MLflow drops it and what follows.",
    "filter-empty-key": "A filter on a key of no characters is refused; MLflow finds nothing.",
    "http-content-type": "Media types are compared without regard to case, as HTTP wants it.",
    "http-gzip": "A body that says it is compressed is refused; MLflow does not look at that.",
    "http-head": "HEAD is answered as GET is; MLflow misses the query and answers 400.",
    "both-prefixes": "What MLflow serves under /ajax-api only is served under /api too.",
    "error-json": "Every refusal is MLflow's error JSON; MLflow sends some as HTML or as nothing.",
    "retry": "A model's param or output logged again changes nothing; MLflow shows SQL text.",
    "model-status": "A search by a model's status compares names; MLflow compares its number.",
    "model-dataset": "A dataset without a digest means every digest; MLflow finds none.",
    "model-tag-key": "A tag of a logged model needs a key, as every tag does.",
    "blanks": "Blank space around a filter or an order is ignored; MLflow refuses it.",
    "http-duplicate-keys": "A JSON object that names a key twice is refused; MLflow's last wins.",
    "http-utf-16": "JSON is UTF-8; MLflow takes UTF-16 and UTF-32 too.",
    "http-surrogate": "Half a surrogate pair is refused; MLflow stores an empty text instead.",
    "L-02": "A key that ends in a newline is refused; MLflow's pattern lets that one through.",
    "L-08": "The tags of runs/create are checked like those of set-tag; MLflow checks none.",
    "L-12": "Control characters in an experiment's name are refused; MLflow takes NUL too.",
    "L-13": "A run name has at most 5000 characters; MLflow has no limit, its column has.",
    "L-19": "An experiment id of thirty digits does not exist; MLflow fails with a 500.",
    "L-20": "Artifact locations outside the configured roots, or with parameters, are refused.",
    "L-21": "A dataset without a name, or more than 1000 at once, are refused.",
    "L-30": "NaN and Infinity without quotes are stored as they are; MLflow stores 0 at time 0.",
    "L-33": "A metric value in a batch that is no number is refused; MLflow stores 0 at time 0.",
    "L-50": "run_uuid on a call that knows run_id only: run_id is missing; MLflow finds no run ''.",
    "L-32": "A metric value that MLflow would store as another number is refused.",
    "L-35": "A timestamp that is no 64-bit integer is refused; MLflow stores 0.",
    "L-37": "A step that is no 64-bit integer is refused; MLflow stores 0.",
    "L-61": "An unknown status of a run or model is refused; MLflow ignores or stores it.",
    "L-63": "A start or end time that is no 64-bit integer is refused; MLflow stores 0.",
    "L-64": "runs/create without an experiment is a bad parameter; MLflow shows SQL text.",
    "L-80": "max_results that is no integer is refused; MLflow ignores it.",
    "L-81": "experiments/search without max_results gives up to 1000; MLflow insists on it.",
    "L-83": "max_results of a bulk history that is no integer is refused; MLflow fails.",
    "L-88": "Searching logged models gives 1 to 1000 at once; MLflow takes -1 and a million.",
    "L-89": "Page tokens are signed and bound to their search; MLflow takes any offset.",
    "L-90": "A filter has at most 50 conditions, 8 kB, 1000 ids; MLflow has no limit.",
    "L-92": "An unknown view type is refused; MLflow takes it for ACTIVE_ONLY.",
    "L-74": "Two tags of one key at the creation of an experiment are a bad parameter.",
}
