"""imagen-pytorch's U-Net, without the download that importing it begins: the width of a text model that nobody uses."""

from unittest import mock

import transformers

with mock.patch.object(transformers.T5Config, "from_pretrained", return_value=transformers.T5Config(d_model=768)):
    from imagen_pytorch import Unet  # noqa: F401
