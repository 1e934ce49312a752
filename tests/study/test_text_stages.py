"""x"""


def test_it(text_study, text_recipe):
    folder, store = text_study
    import pandas as pd

    for f in sorted(folder.iterdir()):
        print(f.name)
    pd.set_option("display.width", 250, "display.max_columns", 50)
    for n in ("ends", "accuracy", "comparisons"):
        print(pd.read_csv(folder / f"{n}.csv").head(12))
    import json

    for d in store.root.iterdir():
        j = json.loads((d / "done.json").read_text())
        print(j["stage"], j["seconds"])
