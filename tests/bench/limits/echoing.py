"""The limit of P2: a FastAPI application that reads the same body into the same kind of model and gives it back."""

import argparse
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field


class PaymentRequest(BaseModel):
    """What is to be paid, and how."""

    model_config = ConfigDict(extra="forbid", strict=True)

    channel: Annotated[str, Field(min_length=1, max_length=32)]
    product: Annotated[str, Field(min_length=1, max_length=32)]
    order_id: Annotated[str, Field(max_length=64)] | None = None
    description: Annotated[str, Field(max_length=40)] | None = None


def application() -> FastAPI:
    """Nothing is checked but the body, nothing is kept."""
    app = FastAPI()

    @app.post("/v1/payments", status_code=201)
    async def echo(body: PaymentRequest, idempotency_key: Annotated[str, Header()]) -> PaymentRequest:
        assert idempotency_key
        return body

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    """Entry point: one worker on uvloop and httptools, as our service has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(application(), host="127.0.0.1", port=options.port, access_log=False, log_level="warning", loop="uvloop",
                http="httptools")  # fmt: skip


if __name__ == "__main__":
    main()
