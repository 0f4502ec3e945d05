"""Other people's models of OpenAPI 3.1 and AsyncAPI 3 as judges of our documents; runs in its own environment."""

# A judge talks untyped JSON and reports whatever its library raises as its verdict.
# ruff: noqa: ANN001, ANN201, BLE001

import json
import sys

from asyncapi3 import AsyncAPI3
from openapi_spec_validator import OpenAPIV31SpecValidator


def openapi(document):
    """What is wrong with an OpenAPI document, as a list of texts."""
    return [
        f"{'/'.join(map(str, error.path))}: {error.message}"
        for error in OpenAPIV31SpecValidator(document).iter_errors()
    ]


def asyncapi(document):
    """What is wrong with an AsyncAPI document, as a list of texts."""
    try:
        AsyncAPI3.model_validate(document)
    except Exception as error:
        return [str(error)[:4000]]
    return []


VERBS = {"openapi": openapi, "asyncapi": asyncapi}

if __name__ == "__main__":
    # Many documents in one question: importing the models costs far more than reading a document.
    verdicts = {name: VERBS[sys.argv[1]](document) for name, document in json.load(sys.stdin).items()}
    json.dump(verdicts, sys.stdout)
