"""Where the files of a release lie: a folder of this machine, a web server, or a bucket of S3.

Everything above reads them by the names in the manifest, through one small protocol, and holds each against the
manifest. The usual stores of zarr give zeros for an object that the server does not have, and tell nobody.
"""
