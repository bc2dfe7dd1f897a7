"""What becomes of references and of waiting when their mesh ends."""

from __future__ import annotations

import time

import numpy as np
import pytest

from meshray.exceptions import ObjectLostError

GET_S = 30.0
LARGE = 200_000  # items; more than goes inline


def test_a_reference_of_an_ended_mesh() -> None:
    import meshray as ray

    ray.init(num_cpus=1)
    ref = ray.put(1)
    array_ref = ray.put(np.ones(LARGE))
    array = ray.get(array_ref)
    ray.shutdown()
    assert array.sum() == LARGE  # the view outlives the mesh
    ray.init(num_cpus=1)
    with pytest.raises(ObjectLostError, match="ended"):
        ray.get(ref, timeout=GET_S)
    with pytest.raises(ObjectLostError, match="ended"):
        ray.get(ray.remote(lambda x: x).remote(ref), timeout=GET_S)
    assert ray.get(ray.put(2)) == 2
    ray.shutdown()


def test_futures_end_with_the_mesh() -> None:
    import meshray as ray

    ray.init(num_cpus=1)
    future = ray.remote(time.sleep).remote(100).future()
    ray.shutdown()
    with pytest.raises(ray.exceptions.MeshrayError, match="shut down"):
        future.result(GET_S)
