"""Speaks to a local buildbox-casd; runs in BuildStream's environment, which has the declarations of its protocol.

    local_cas.py SOCKET INSTANCE capture FOLDER          prints HASH/SIZE of the folder's root directory
    local_cas.py SOCKET INSTANCE stage HASH/SIZE FOLDER  makes FOLDER of it
    local_cas.py SOCKET INSTANCE result HASH/SIZE        asks for an action's result, and stores one when there is none
"""

import shutil
import sys
import threading

import grpc
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as reapi_grpc
from buildstream._protos.build.buildgrid import local_cas_pb2 as local_cas
from buildstream._protos.build.buildgrid import local_cas_pb2_grpc as local_cas_grpc

CALL_SECONDS_MAX = 60


def digest(text):
    name, _, size = text.partition("/")
    return reapi.Digest(hash=name, size_bytes=int(size))


def capture(channel, instance, folder):
    # Directories as such are uploaded, beside the Tree, because that is what is staged.
    request = local_cas.CaptureTreeRequest(
        instance_name=instance,
        path=[folder],
        output_directory_format=reapi.Command.TREE_AND_DIRECTORY,
    )
    answer = local_cas_grpc.LocalContentAddressableStorageStub(channel).CaptureTree(request, timeout=CALL_SECONDS_MAX)
    (captured,) = answer.responses
    if captured.status.code:
        sys.exit(f"capture: {captured.status.message}")
    print(f"{captured.root_directory_digest.hash}/{captured.root_directory_digest.size_bytes}")


def stage(channel, instance, root, folder):
    stub = local_cas_grpc.LocalContentAddressableStorageStub(channel)
    fetch = local_cas.FetchTreeRequest(instance_name=instance, root_digest=digest(root), fetch_file_blobs=True)
    stub.FetchTree(fetch, timeout=CALL_SECONDS_MAX)
    done = threading.Event()

    def requests():
        yield local_cas.StageTreeRequest(
            instance_name=instance, root_digest=digest(root), staging_mode=local_cas.StageTreeRequest.COPY_OR_LINK
        )
        # What is staged stays until a second request comes.
        done.wait()
        yield local_cas.StageTreeRequest()

    answers = stub.StageTree(requests(), timeout=CALL_SECONDS_MAX)
    try:
        shutil.copytree(next(answers).path, folder, symlinks=True)
    finally:
        done.set()
    next(answers)


def result(channel, instance, action):
    """What casd answers is what the server has: casd keeps no action results of its own when it is a proxy."""
    stub = reapi_grpc.ActionCacheStub(channel)
    get = reapi.GetActionResultRequest(instance_name=instance, action_digest=digest(action))
    try:
        print("hit", stub.GetActionResult(get, timeout=CALL_SECONDS_MAX).exit_code)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        update = reapi.UpdateActionResultRequest(
            instance_name=instance, action_digest=digest(action), action_result=reapi.ActionResult(exit_code=7)
        )
        print("stored", stub.UpdateActionResult(update, timeout=CALL_SECONDS_MAX).exit_code)


if __name__ == "__main__":
    _, socket, name, command, *rest = sys.argv
    with grpc.insecure_channel(f"unix:{socket}") as connection:
        {"capture": capture, "stage": stage, "result": result}[command](connection, name, *rest)
