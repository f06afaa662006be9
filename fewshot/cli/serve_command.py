"""The command that serves registries over HTTP."""

from __future__ import annotations

import click

from fewshot.cli.output import note, print_result


@click.command(epilog="Example: fewshot serve parts.fewshot, then open http://127.0.0.1:8000 in a browser")
@click.argument("path")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other address needs --token-file.")
@click.option("--token-file", metavar="FILE", help="The token that requests must carry; readable by its owner only.")
@click.option(
    "--encoder",
    metavar="NAME",
    help="Of new registries: pocket (default), a timm name, a folder, st:NAME, audio:NAME, voice.",
)
@click.option("--label-studio", is_flag=True, help="Serve as a Label Studio ML backend; PATH must be a folder.")
@click.option("--label-studio-url", metavar="URL", help="By default $LABEL_STUDIO_URL, else this machine.")
@click.option(
    "--label-studio-images", metavar="ORIGIN", multiple=True, help="Another host of images: https://host[:port]."
)
@click.option("--only-confident", is_flag=True, help="Send Label Studio confident suggestions only.")
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
    """Serve registries over HTTP: a web page and a REST API.

    PATH is a registry NAME.fewshot or a folder of them; it is created if it does not exist. A bundle NAME.zip of
    `fewshot export --onnx` is served read only, by the REST API alone and without torch. The URL is printed as JSON
    once the server accepts requests; the access log, a JSON object per line, goes to standard error. Ctrl-C or SIGTERM
    stops the server after the requests that it has accepted.
    """
    backend = {"url": label_studio_url, "image_hosts": label_studio_images, "only_confident": only_confident}
    if any(backend.values()) and not label_studio:
        raise click.UsageError("--label-studio-url, --label-studio-images and --only-confident need --label-studio")
    from fewshot.validation import check_extra

    modules = ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client", "cachetools")
    check_extra("serve", "the server needs", *modules)
    from fewshot.runtime import is_bundle
    from fewshot.service import server_process

    bundle = path.endswith(".zip") or is_bundle(path)
    if bundle and (encoder or label_studio):
        option = "--encoder" if encoder else "--label-studio"
        raise click.UsageError(f"{option} is for registries, and {path} is a bundle, which is read only")
    token = None if token_file is None else server_process.read_token(token_file)
    server_process.check_host(host, token)
    if bundle:
        from fewshot.service import create_bundle_app

        app = create_bundle_app(path, token=token)
    else:
        from fewshot.service import create_app

        app = create_app(path, encoder=encoder, token=token, label_studio=backend if label_studio else None)
    bound = server_process.listen(host, port)  # before the encoder is loaded, so that a taken port is an error at once
    url = server_process.url_of(bound)

    def ready() -> None:
        print_result({"url": url})
        note(f"serving {path} at {url}; stop with Ctrl-C")

    with bound:
        if not bundle:
            app.state.registries.warm()
        server_process.run(app, bound, ready)
