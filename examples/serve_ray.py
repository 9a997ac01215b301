"""The server of an atlas as a Ray Serve deployment, for a cluster that has one.

    pip install 'ray[serve]'
    ATTLAS_STORES=book.zarr ATTLAS_TOKEN=s3cret-of-the-team serve run examples.serve_ray:app

The app is built where it runs: of an atlas, nothing is pickled. Ray Serve listens at port 8000 of loopback; replicas
share nothing, so any of them answers any question, and captures belong to `attlas serve`.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from ray import serve

from attlas.server.app import create_app
from attlas.server.listen import open_session

REPLICAS = int(os.environ.get("ATTLAS_REPLICAS", "1"))


def build() -> FastAPI:
    """The app, in the process of a replica."""
    import attlas

    atlases = [attlas.open_atlas(store) for store in os.environ["ATTLAS_STORES"].split(",")]
    hosts = os.environ.get("ATTLAS_HOSTS", "").split(",")
    return create_app(open_session(atlases), token=os.environ["ATTLAS_TOKEN"], hosts=filter(None, hosts))


@serve.deployment(num_replicas=REPLICAS, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
@serve.ingress(build)
class Attlas:
    """A replica."""


app = Attlas.bind()  # type: ignore[attr-defined]
