"""GET /api/schema/: the description of the API, the same for everybody while the process lives."""

import threading
from functools import lru_cache
from typing import Any

from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

_making = threading.Lock()  # one thread generates it while the others wait


class SchemaView(SpectacularAPIView):
    """Serves a schema that is generated once: that takes a second, and anybody may request it without an account."""

    authentication_classes = ()

    def _get_schema_response(self, request: Request) -> HttpResponse:
        renderer: BaseRenderer = request.accepted_renderer
        with _making:
            document = _document(renderer.__class__)  # type: ignore[arg-type]  # classes of DRF are hashable
        headers = {"Content-Disposition": f'inline; filename="ami-headend.{renderer.format}"'}
        return HttpResponse(document, content_type=renderer.media_type, headers=headers)


@lru_cache(maxsize=4)
def _document(renderer: type[BaseRenderer]) -> bytes:
    generator: Any = SchemaGenerator
    schema = generator().get_schema(request=None, public=True)
    document = renderer().render(schema, renderer.media_type, {})
    return document if isinstance(document, bytes) else str(document).encode()
