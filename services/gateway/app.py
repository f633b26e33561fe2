"""The application: routes, error answers and API documentation put together."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import swagger_ui
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.static_files import create_static_files_router

from services.gateway import (
    experiment_routes,
    health_routes,
    labelling_routes,
    problems,
    query_routes,
    schedule_routes,
    training_routes,
)
from services.gateway.peers import Peers

ROUTES = (
    query_routes.recommend,
    query_routes.classify,
    query_routes.feedback,
    labelling_routes.review_items,
    labelling_routes.resolve_review_item,
    labelling_routes.import_examples,
    labelling_routes.export_examples,
    labelling_routes.delete_user_data,
    training_routes.retrain,
    training_routes.retrain_status,
    training_routes.training_runs,
    training_routes.training_run,
    training_routes.metrics,
    training_routes.versions,
    training_routes.history,
    training_routes.rollback,
    training_routes.deploy,
    training_routes.model_status,
    training_routes.logging_stats,
    experiment_routes.start_experiment,
    experiment_routes.experiment_status,
    experiment_routes.stop_experiment,
    schedule_routes.start_schedule,
    schedule_routes.stop_schedule,
    schedule_routes.schedule_status,
    health_routes.livez,
    health_routes.readyz,
    health_routes.health,
)

# The page's script and style come from an installed package, so that it works without a network.
SWAGGER_FILES = Path(swagger_ui.__file__).parent / "static"


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
        route_handlers=[*ROUTES, create_static_files_router("/docs/files", [SWAGGER_FILES], include_in_schema=False)],
        lifespan=[lifespan],
        dependencies={"peers": Provide(peers_of, sync_to_thread=False)},
        exception_handlers={
            problems.InvalidBody: problems.from_invalid_body,
            UnicodeDecodeError: problems.from_undecodable_body,
            HTTPException: problems.from_http_error,
            grpc.aio.AioRpcError: problems.from_peer_error,
            Exception: problems.from_unexpected,
        },
        request_max_body_size=max_body_bytes,
        openapi_config=OpenAPIConfig(
            title="MoodFood",
            version="1",
            description="Intents and dishes for how somebody feels, from a classifier that keeps learning.",
            path="/docs",
            render_plugins=[
                SwaggerRenderPlugin(
                    js_url="/docs/files/swagger-ui-bundle.js",
                    css_url="/docs/files/swagger-ui.css",
                    standalone_preset_js_url="/docs/files/swagger-ui-standalone-preset.js",
                    favicon='<link rel="icon" href="data:,">',
                    path="/",
                )
            ],
        ),
    )
