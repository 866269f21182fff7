"""The networks of the zoo: timm's and transformers' families, some written here, and files of other packages."""

from networks import detector, files, timm_families, transformers_families, two_inputs, unet, vae_decoder
from networks.network import Network

#: Small and unlike each other: what continuous integration checks.
SAMPLE = (
    "timm/resnet",
    "timm/vision_transformer",
    "timm/mobilenetv3",
    "transformers/t5",
    "transformers/gpt2",
    "transformers/swin",
    "own/detector",
    "own/unet",
    "own/two_inputs",
    "onnx/light_squeezenet",
)


def catalogue() -> list[Network]:
    """Every network, none of them made yet."""
    return [
        *timm_families.networks(),
        *transformers_families.networks(),
        *detector.networks(),
        *unet.networks(),
        *vae_decoder.networks(),
        *two_inputs.networks(),
        *files.networks(),
    ]
