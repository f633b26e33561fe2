"""An inference process that answers until it is told to reload or is asked a query; then it crashes or hangs.

Run as `python -m tests.misbehaving_inference crash|hang load|query` with MOODFOOD_INFERENCE_PORT set.
"""

import asyncio
import os
import sys
import time
from typing import Any

from moodfood.inference.v1 import inference_pb2, inference_pb2_grpc

from services.transport.serving import build_server


class Misbehaving(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, how: str, when: str) -> None:
        self.how, self.when = how, when

    def misbehave(self, now: str) -> None:
        if now != self.when:
            return
        if self.how == "crash":
            os.abort()
        time.sleep(3600)

    async def GetModelStatus(self, request: Any, context: Any) -> inference_pb2.GetModelStatusResponse:
        return inference_pb2.GetModelStatusResponse(version=1)

    async def ReloadModel(self, request: Any, context: Any) -> inference_pb2.ReloadModelResponse:
        self.misbehave("load")
        return inference_pb2.ReloadModelResponse(version=request.version)

    async def Classify(self, request: Any, context: Any) -> inference_pb2.ClassifyResponse:
        self.misbehave("query")
        return inference_pb2.ClassifyResponse()


async def main() -> None:
    # The stubs declare every method abstract; those that are missing answer UNIMPLEMENTED.
    server, misbehaving = build_server({}), Misbehaving(*sys.argv[1:])  # type: ignore[abstract]
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(misbehaving, server)
    server.add_insecure_port(f"127.0.0.1:{os.environ['MOODFOOD_INFERENCE_PORT']}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
