"""Stages in two processes, over a socket."""

import re

import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import two_machines


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.10", reason="torch.onnx refuses a head")
def test_only_what_stays_is_sent_and_leaves_where_it_does_on_one_machine(capsys):
    two_machines.main(["--epochs", "1"])
    printed = capsys.readouterr().out
    sent, everybody, *_ = map(int, re.findall(r"(\d+) kB for", printed))
    stayed = int(re.search(r"(\d+) went on elsewhere", printed)[1])
    total = int(re.search(r"(\d+) pictures:", printed)[1])
    assert 0 < stayed < total
    assert sent < everybody
    # Besides the tensors, each message has names and shapes.
    assert sent == pytest.approx(everybody * stayed / total, rel=0.1)
    assert "100.0% leave where they do on one machine" in printed
