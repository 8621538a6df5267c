#!/bin/sh
# Roll out an overlay: deploy/k8s/apply.sh dev. The migration runs to its end first; while it runs, the old version answers.
# The secret `rap-secrets` has to be there (README.md).
set -eu
folder=$(dirname "$0")/overlays/${1:?which overlay: dev or prod}
wait=${2:-3600s}
kubectl apply --kustomize "$folder" --selector rap/first=true                 # namespace, settings, and in dev the servers
kubectl --namespace rap get secret rap-secrets >/dev/null
kubectl apply --kustomize "$folder" --selector app.kubernetes.io/name=setup
kubectl --namespace rap wait --for=condition=complete --timeout="$wait" job --selector app.kubernetes.io/name=setup
kubectl apply --kustomize "$folder"
kubectl --namespace rap rollout status --timeout=600s deployment --selector app.kubernetes.io/part-of=rap-analyzer
