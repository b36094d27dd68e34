"""The demo's summary on a narrow screen: words stay whole, and numbers say what they are of."""

import io
from pathlib import Path

from rich.console import Console

from supervisor.cli.demo.summary import Story, summary
from tests.support.scripted import a_job

NOTE = "UNTRAINED NETWORK: this training began with random weights (yolo11n.yaml); all it knows is from this data set"
METRICS = {"mAP50": 0.727, "mAP50_95": 0.5, "precision": 0.6, "recall": 0.7}


def test_words_of_a_long_note_stay_whole_and_the_metrics_say_whose_they_are(tmp_path: Path) -> None:
    propagation = a_job(result={"frames": 120, "seconds": 10.0, "fps": 12.0, "masks_dir": str(tmp_path), "trained": True})
    training = a_job(
        params={"epochs": 3},
        result={
            "epochs": 3, "seconds": 9.0, "images": 8, "val_images": 4, "metrics": METRICS, "weights": "w.pt", "trained": False, "note": NOTE,
        },
    )  # fmt: skip
    click = a_job(result={"seconds": 0.5, "masks": [1]})
    story = Story(home=tmp_path, began_s=0.0, propagation=propagation, training=training, click=click, sam_pids=[1, 2])
    out = io.StringIO()

    summary(Console(file=out, width=60, highlight=False, soft_wrap=True), story)

    table = out.getvalue()[out.getvalue().index("jobs ") :]
    words = {word for line in table.splitlines() for word in line.split()}
    assert set(NOTE.split()) <= words, "none is broken"
    said = " ".join(table.split())
    assert "mAP50 0.727, mAP50-95 0.500, precision 0.600, recall 0.700: the best epoch's network, validated once more at the end" in said
    assert "12.0 frames/s over both of its phases" in said
