"""Names that the trainer writes and inference reads, or the other way round. Each is spelt once, here."""

# The label of a query that no stage could answer.
UNKNOWN_LABEL = "unknown"

# The stages of the cascade, as the query log names them.
LINEAR_STAGE = "linear"
TRANSFORMER_STAGE = "transformer"
KEYWORD_STAGE = "keyword"

# The sides of an experiment, as the query log names them.
CHAMPION_ARM = "champion"
CHALLENGER_ARM = "challenger"

# Files in the folder of a version.
MANIFEST_FILE = "manifest.json"
LINEAR_FILE = "model.onnx"
EXPLANATION_FILE = "explanation.onnx"
HEAD_FILE = "head.onnx"

# Files in the folder of a model, beside its versions.
ALIAS_FILE = "champion"
EXPERIMENT_FILE = "experiment"

# The key under which a graph's metadata holds the labels, as a JSON list in the order of its outputs.
LABELS_METADATA = "labels"
