"""The native protobuf rule under the name that Bazel's embedded tools load; nothing here builds protobuf."""

proto_library = native.proto_library
