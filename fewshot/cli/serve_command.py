"""The command that serves registries over HTTP."""

from __future__ import annotations

import click

from fewshot.cli.options import note, say


@click.command(epilog="Example: fewshot serve parts.fewshot, then open http://127.0.0.1:8000 in a browser")
@click.argument("path")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address needs --token-file.")
@click.option("--token-file", metavar="FILE", help="Holds the token that requests must show; readable by you only.")
@click.option("--encoder", metavar="NAME", help="Of new registries: pocket (default), a timm name, or a folder.")
@click.option("--label-studio", is_flag=True, help="Suggest in Label Studio, and learn there; PATH must be a folder.")
@click.option("--label-studio-url", metavar="URL", help="Where it is, if not on this machine; else $LABEL_STUDIO_URL.")
@click.option(
    "--label-studio-images", metavar="ORIGIN", multiple=True, help="Where else pictures may lie: https://host[:port]."
)
@click.option("--only-confident", is_flag=True, help="Keep unsure suggestions back from Label Studio.")
def serve(
    path: str,
    port: int,
    host: str,
    token_file: str | None,
    encoder: str | None,
    label_studio: bool,
    label_studio_url: str | None,
    label_studio_images: tuple[str, ...],
    only_confident: bool,
) -> None:
    """Serve a registry, or a folder of registries, over HTTP: a page to teach and test with, and a REST interface.

    PATH is a registry NAME.fewshot or a folder of them; it is made if it does not exist. The address is printed as JSON
    once the server answers; its log, a line of JSON a request, goes to stderr. It ends with Ctrl-C or SIGTERM, after
    what it has accepted.
    """
    backend = {"url": label_studio_url, "image_hosts": label_studio_images, "only_confident": only_confident}
    if any(backend.values()) and not label_studio:
        raise click.UsageError("--label-studio-url, --label-studio-images and --only-confident need --label-studio")
    from fewshot.validation import check_extra

    check_extra("serve", "the server needs", "fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client")
    from fewshot.service import create_app, server_process

    token = None if token_file is None else server_process.read_token(token_file)
    server_process.check_host(host, token)
    app = create_app(path, encoder=encoder, token=token, label_studio=backend if label_studio else None)
    bound = server_process.listen(host, port)  # before the encoder is loaded: a taken port is told at once
    url = server_process.url_of(bound)

    def ready() -> None:
        say({"url": url})
        note(f"serving {path} at {url}; stop with Ctrl-C")

    with bound:
        app.state.registries.warm()
        server_process.run(app, bound, ready)
