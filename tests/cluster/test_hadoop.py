import pytest

from cluster.hadoop import HonestFiles, first_line, place_of, remote_error


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("hdfs://node:8020/my%20ring/a", ("node", 8020, "/my ring/a")),
        ("webhdfs://node", ("node", None, "/")),
        ("hdfs://nameservice/a#b", ("nameservice", None, "/a#b")),
    ],
)
def test_a_uri_is_a_server_and_a_path(uri: str, wanted: tuple[str, int | None, str]) -> None:
    assert place_of(uri) == wanted


def test_a_uri_without_a_host_or_with_a_user_is_refused() -> None:
    for wrong, told in {"hdfs:///a": "hdfs://host:port/folder", "webhdfs://me@node/a": "HADOOP_USER_NAME"}.items():
        with pytest.raises(ValueError, match=told):
            place_of(wrong)


@pytest.mark.parametrize(
    ("kind", "message", "wanted"),
    [
        ("AccessControlException", "denied", PermissionError),
        ("FileNotFoundException", "gone", FileNotFoundError),
        ("FileAlreadyExistsException", "there", FileExistsError),
        ("SafeModeException", "wait", ConnectionError),
        ("IOException", "File /a could only be replicated to 0 nodes instead of minReplication (=1)", ConnectionError),
        ("IOException", "Failed to find datanode, suggest to check cluster health.", ConnectionError),
        ("IOException", "odd", OSError),
    ],
)
def test_an_exception_of_hadoop_is_the_error_that_it_means(kind: str, message: str, wanted: type[OSError]) -> None:
    error = remote_error(kind, f"{message}\n\tat org.apache")
    assert type(error) is wanted
    assert str(error).removeprefix(f"{kind}: ") == message


def test_a_stack_is_left_out_written_out_or_as_text() -> None:
    assert first_line("a\nb") == first_line("a\\nb") == "a"


class Listed(HonestFiles):  # type: ignore[misc]  # fsspec has no types
    """Folders in memory; one of them goes away when it is listed, another cannot be listed."""

    cachable = False
    folders = {"/": ["/a/", "/f", "/gone/"], "/a/": ["/a/g"], "/gone/": None}

    def ls(self, path: str, detail: bool = False) -> list[dict[str, str]]:
        names = self.folders[path]
        if names is None:
            raise self.error
        return [{"name": name, "type": "directory" if name.endswith("/") else "file"} for name in names]


def test_what_is_below_a_folder_is_listed_without_what_has_gone_meanwhile() -> None:
    files = Listed()
    files.error = FileNotFoundError("/gone/")
    assert files.find("/") == ["/a/g", "/f"]
    assert files.find("/", withdirs=True, maxdepth=1) == ["/a/", "/f", "/gone/"]


def test_a_folder_that_cannot_be_listed_is_an_error() -> None:
    files = Listed()
    files.error = TimeoutError("no answer")
    with pytest.raises(TimeoutError):
        files.find("/")
