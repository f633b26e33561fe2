"""The model repository of one model, in a folder or in a bucket of an object store. A leaf: it knows no service."""
