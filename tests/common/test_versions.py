"""What a result was made with."""

import json

from daitir.common.versions import versions


def test_versions_name_what_made_a_result():
    made_with = versions()
    assert {"python", "torch", "open_clip_torch", "diffusers", "transformers", "numpy"} < set(
        made_with
    )
    assert made_with["device"] and made_with["cpu_count"] >= 1 and "commit" in made_with
    json.dumps(made_with)
