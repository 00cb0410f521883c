"""Prints what scikit-learn computes with a backend of joblib, which is named by the argument."""

import json
import sys

from joblib import parallel_config
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score

import qmill.compat.joblib

qmill.compat.joblib.register()
x, y = make_classification(8000, 20, n_informative=8, random_state=3)
assert x.nbytes > 1 << 20  # from which on arrays are mapped
forest = RandomForestClassifier(20, max_depth=6, random_state=3)
search = GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0]}, cv=3)
with parallel_config(backend=sys.argv[1], n_jobs=2):
    forest.fit(x, y)
    search.fit(x, y)
    found = {
        "forest": forest.predict(x).tolist(),
        "trees": [tree.tree_.threshold.tolist() for tree in forest.estimators_],
        "cross_val_score": cross_val_score(forest, x[:2000], y[:2000], cv=3).tolist(),
        "search": [search.cv_results_["mean_test_score"].tolist(), search.best_params_],
    }
print(json.dumps(found))
