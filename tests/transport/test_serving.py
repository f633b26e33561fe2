"""What every gRPC service of ours offers: health, reflection, typed errors, a graceful end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.transport.serving import LARGE_RESPONSES, MAX_REQUEST_BYTES, bind, build_server, start
from services.transport.settings import address
from services.transport.startup import PortTaken, listen

pytestmark = pytest.mark.anyio

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = "moodfood.inference.v1.InferenceService"


async def test_health_checks_lists_and_watches_until_not_serving() -> None:
    server = build_server({})
    port = bind(server, "127.0.0.1", 0, "PORT")
    stop = await start(server, [NAME])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="nope"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        listed = await health.List(health_pb2.HealthListRequest())
        assert {name: each.status for name, each in listed.statuses.items()} == {"": SERVING, NAME: SERVING}

        watching = health.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watching.read()).status == SERVING
        stopping = asyncio.create_task(stop())
        assert (await watching.read()).status == NOT_SERVING
        watching.cancel()
        await stopping


async def test_reflection_lists_the_services() -> None:
    server = build_server({})
    port = bind(server, "127.0.0.1", 0, "PORT")
    stop = await start(server, [NAME])

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        names = [
            service.name
            async for answer in stub.ServerReflectionInfo(requests())
            for service in answer.list_services_response.service
        ]
    await stop()
    assert {NAME, "grpc.health.v1.Health"} <= set(names)


async def test_two_servers_never_share_a_port() -> None:
    first, second = build_server({}), build_server({})
    port = bind(first, "127.0.0.1", 0, "PORT")
    await first.start()
    with pytest.raises(PortTaken, match=f"{port}.*MOODFOOD_X_PORT"):
        bind(second, "127.0.0.1", port, "MOODFOOD_X_PORT")
    await first.stop(None)


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
async def test_a_server_answers_on_ipv4_and_on_ipv6(host: str) -> None:
    server = build_server({})
    port = bind(server, host, 0, "PORT")
    stop = await start(server, [NAME])
    async with grpc.aio.insecure_channel(address(host, port)) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
    await stop()


def test_a_foreign_host_is_told_apart_from_a_taken_port() -> None:
    said = r"cannot listen on 203\.0\.113\.1:0: Cannot assign requested address; set MOODFOOD_HOST to"
    with pytest.raises(PortTaken, match=said):
        listen("203.0.113.1", 0, "MOODFOOD_X_PORT")


class Repeater(grpc.GenericRpcHandler):
    """Answers every call with as many bytes as its request says."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def repeat(request: bytes, context: Any) -> bytes:
            return b"x" * int(request)

        return grpc.unary_unary_rpc_method_handler(repeat)


async def test_long_answers_reach_a_client_that_takes_them_and_long_requests_are_refused() -> None:
    server = build_server({})
    server.add_generic_rpc_handlers((Repeater(),))
    port = bind(server, "127.0.0.1", 0, "PORT")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LARGE_RESPONSES) as channel:
        call: Any = channel.unary_unary("/any/Method")
        assert len(await call(b"%d" % (2 * MAX_REQUEST_BYTES))) == 2 * MAX_REQUEST_BYTES
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"0" * (MAX_REQUEST_BYTES + 1))
    await server.stop(None)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
