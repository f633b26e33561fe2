"""The application: routes, error answers and API documentation put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import swagger_ui
from litestar import Litestar, Request, Router, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.static_files import create_static_files_router

from services.gateway import problems, refusals
from services.gateway.peers import Peers
from services.gateway.routes import evaluation, experiments, labels, probes, queries, runs, schedule, serving, versions

ROUTES = (
    queries.recommend,
    queries.classify,
    labels.give_feedback,
    labels.list_review_items,
    labels.decide_review_item,
    labels.import_examples,
    labels.export_examples,
    labels.delete_user_data,
    runs.retrain,
    runs.show_retrain_status,
    runs.list_runs,
    runs.show_run,
    evaluation.show_evaluation,
    versions.list_versions,
    versions.list_history,
    versions.deploy,
    versions.roll_back,
    serving.show_model,
    serving.show_query_log,
    experiments.start_experiment,
    experiments.show_experiment,
    experiments.stop_experiment,
    schedule.start_schedule,
    schedule.stop_schedule,
    schedule.show_schedule,
)
PROBES = (probes.livez, probes.readyz, probes.health)

# The page's script and style come from an installed package, so that it works without a network.
SWAGGER_FILES = Path(swagger_ui.__file__).parent / "static"


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    refusals.InvalidBody: problems.answer_invalid_body,
    UnicodeDecodeError: problems.answer_undecodable_body,
    RecursionError: problems.answer_nested_body,
    HTTPException: problems.answer_http_error,
    grpc.aio.AioRpcError: problems.answer_peer_error,
    Exception: problems.answer_unexpected,
}


@get("/openapi.json", include_in_schema=False, sync_to_thread=False)
def show_schema(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Return the description of every route in the OpenAPI format."""
    return request.app.openapi_schema.to_schema()


def build_app(connect: Callable[[], AbstractAsyncContextManager[Peers]], max_body_bytes: int) -> Litestar:
    """Return the application; `connect` opens the channels for its lifetime."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with connect() as peers:
            app.state.peers = peers
            yield

    def peers_of(state: State) -> Peers:
        return state.peers  # type: ignore[no-any-return]

    return Litestar(
        route_handlers=[
            Router("/", route_handlers=ROUTES, guards=[refusals.refuse_unknown_parameters]),
            *PROBES,
            show_schema,
            create_static_files_router("/docs/files", [SWAGGER_FILES], include_in_schema=False),
        ],
        lifespan=[lifespan],
        dependencies={"peers": Provide(peers_of, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=max_body_bytes,
        openapi_config=build_documentation(),
    )


def build_documentation() -> OpenAPIConfig:
    """Return what the API page says and how it is shown."""
    return OpenAPIConfig(
        title="MoodFood",
        version="1",
        description="Ranked labels for texts from a classifier that keeps learning, and dishes with the shipped data.",
        path="/docs",
        use_handler_docstrings=True,
        render_plugins=[
            SwaggerRenderPlugin(
                js_url="/docs/files/swagger-ui-bundle.js",
                css_url="/docs/files/swagger-ui.css",
                standalone_preset_js_url="/docs/files/swagger-ui-standalone-preset.js",
                favicon='<link rel="icon" href="data:,">',
                path="/",
            )
        ],
    )
