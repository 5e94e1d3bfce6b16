"""What a few simple facts about a patient predict: a network that does no better has not read the images.

Tumour volume, plane and number of images say nothing of a tumour's texture, yet may go with the class, if only because
hospitals differ.
"""

import numpy as np
import pandas as pd

from common.classification import both_classes


def baseline_probabilities(
    train_features: pd.DataFrame, train_labels: np.ndarray, test_features: pd.DataFrame
) -> np.ndarray:
    """Probability of class 1 for each test patient, (test patients,), by logistic regression.

    train_features, test_features: one row per patient, the same columns; train_labels: (train patients,) of 0 and 1.
    Numbers are standardised with the training patients' mean and deviation; every other column is a category, one-hot
    (one that only a test patient has counts as none). L2 penalty of strength 1, scikit-learn's default, which keeps a
    few dozen patients from being separated by accident.
    Raises ValueError when the columns differ, a value is missing, or the labels are not 0 and 1, both of them.
    """
    if list(train_features.columns) != list(test_features.columns):
        raise ValueError(
            f"expected the same features to train and test, received {', '.join(train_features.columns)} and "
            f"{', '.join(test_features.columns)}"
        )
    for features in (train_features, test_features):
        if missing := [str(name) for name in features.columns[features.isna().any()]]:
            raise ValueError(f"expected a value of every feature for every patient, found none in {', '.join(missing)}")
    # Here, as scikit-learn takes a second, for which no --help should wait.
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    labels = both_classes(train_labels)
    numbers = train_features.select_dtypes("number").columns
    model = make_pipeline(
        make_column_transformer(
            (StandardScaler(), numbers),
            (OneHotEncoder(handle_unknown="ignore"), train_features.columns.difference(numbers)),
        ),
        LogisticRegression(),
    )
    return model.fit(train_features, labels).predict_proba(test_features)[:, 1]
