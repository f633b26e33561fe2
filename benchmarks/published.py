"""Figures that others have published, for the plots; nothing here is measured by us."""

# Top-1 accuracy on the in-scope test queries: Larson et al., "An Evaluation Dataset for Intent Classification and
# Out-of-Scope Prediction" (EMNLP 2019), table 2, full data.
PUBLISHED: dict[str, dict[str, float]] = {
    "clinc150": {
        "BERT, fine-tuned": 0.969,
        "MLP on USE": 0.935,
        "Dialogflow": 0.917,
        "Rasa": 0.915,
        "SVM": 0.910,
    }
}
