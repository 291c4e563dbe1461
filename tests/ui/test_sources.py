"""Where a checkpoint comes from decides what else may be read: nothing, for an upload."""

import onnx
import pytest
from onnx import TensorProto, helper

from quantlab.errors import CheckpointError
from quantlab.ui import cache, sources


def test_an_upload_reads_no_file_that_lies_beside_it():
    proto = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value="name.json")
    model: onnx.ModelProto = helper.make_model(helper.make_graph([], "g", [], [], [proto]))
    source = sources.keep_upload("model.onnx", model.SerializeToString())
    assert (sources.locate(source).parent / "name.json").is_file()
    with pytest.raises(CheckpointError, match="an upload has no files beside it"):
        cache.checkpoint(source)


@pytest.mark.parametrize("source", [sources.SAMPLE, "/a/path.onnx", "upload-1"])
def test_what_is_no_upload_is_not_taken_for_one(source):
    assert not sources.is_upload(source)
