// What the functions here and in ../../cuda/cpp/ need of XLA's C interface to be called by XLA.

#pragma once

#include <cstdint>

#include "xla/ffi/api/c_api.h"

namespace {

const XLA_FFI_Buffer& argument(const XLA_FFI_CallFrame* call, int n) {
  return *static_cast<const XLA_FFI_Buffer*>(call->args.args[n]);
}

// Before XLA uses a function it calls it once with a request for metadata: the version of XLA's C interface that the
// function was compiled for, and its traits. Returns whether this is that call, after answering it.
//
// `auto`, as version 0.3 of the interface (jax 0.10) calls the type XLA_FFI_Extension_Base and versions from 0.4 on
// (jax 0.11 and 0.12) XLA_FFI_InternalExtension. The layout and the names of the fields are the same.
bool answers_metadata_request(const XLA_FFI_CallFrame* call, XLA_FFI_Handler_Traits traits = 0) {
  const auto* extension = call->extension_start;
  if (!extension || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* metadata = reinterpret_cast<const XLA_FFI_Metadata_Extension*>(extension)->metadata;
  metadata->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  metadata->traits = traits;
  metadata->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
  return true;
}

}  // namespace
