"""Deploy: a version of the registry becomes a name that clients call."""

from tandem.registry import Registry
from tandem.serve import Deployment, Deployments, DeployOptions


def deploy_version(
    registry: Registry, deployments: Deployments, name: str, *, ref: str, engine: str, options: DeployOptions
) -> Deployment:
    """Bind the deployment `name` to the version that `ref` (`starter`, `starter@2`) means now.

    Raises:
        NotFound: the registry has no such version.
        InvalidRequest: the name or an option cannot be used.
        IntegrityError: the version's file is missing or is not what its digest says.
    """
    version = registry.resolve(ref)
    registry.path(version)
    return deployments.bind(name, version=version, options=options, engine=engine)
