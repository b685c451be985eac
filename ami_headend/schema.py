"""GET /api/schema/: the description of the API, which is the same for everybody and as long as the process lives."""

import threading
from functools import lru_cache

from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

_making = threading.Lock()  # one thread makes it, the others wait for theirs


class SchemaView(SpectacularAPIView):  # type: ignore[misc]
    """Made once: it costs a second, and anybody may ask for it, without an account."""

    authentication_classes = ()

    def _get_schema_response(self, request: Request) -> HttpResponse:
        renderer: BaseRenderer = request.accepted_renderer
        with _making:
            document = _document(type(renderer))
        filename = self._get_filename(request, None)
        headers = {"Content-Disposition": f'inline; filename="{filename}"'}
        return HttpResponse(document, content_type=renderer.media_type, headers=headers)


@lru_cache(maxsize=4)
def _document(renderer: type[BaseRenderer]) -> bytes:
    schema = SchemaGenerator().get_schema(request=None, public=True)
    return bytes(renderer().render(schema, renderer.media_type, {}))
