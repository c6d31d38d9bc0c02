#!/usr/bin/env bash
# A run on a Kubernetes cluster (GKE or another) with the JobSet controller, one pod a host: by GPUs or by TPUs. A pod
# that is preempted ends the others with 75, and the set starts again and goes on from the last checkpoint.
#   IMAGE=REGISTRY/nca_gen:cuda13 HOSTS=2 CHIPS=8 CLAIM=runs bash launch/gke.sh --config=configs/geca.py --workdir=/runs/geca
#   KIND=tpu TPU_TYPE=tpu-v5-lite-podslice TOPOLOGY=4x4 HOSTS=4 CHIPS=4 ... bash launch/gke.sh ...
#   bash launch/gke.sh --dry-run ...    only prints the manifest and what it would run
# NAME=: of the set. IMAGE=: of launch/Dockerfile. HOSTS=: pods. CHIPS=: accelerators of each. CLAIM=: a claim of a volume
# that all pods may write (ReadWriteMany), mounted at /runs. RESTARTS=: 50 if not set.
set -eu

name=${NAME:-nca} image=${IMAGE:-nca_gen:cuda13} hosts=${HOSTS:-2} chips=${CHIPS:-8} claim=${CLAIM:-runs}
dry=''
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi
case "${KIND:-gpu}" in
gpu) resource=nvidia.com/gpu selector='' ;;
tpu)
    resource=google.com/tpu
    selector="
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: ${TPU_TYPE:-tpu-v5-lite-podslice}
              cloud.google.com/gke-tpu-topology: ${TOPOLOGY:-4x4}"
    ;;
*)
    echo "error: KIND=$KIND is neither gpu nor tpu" >&2
    exit 2
    ;;
esac

# One word as YAML has it between single quotes.
quoted() { printf "'%s'" "${1//\'/\'\'}"; }
arguments=''
for word; do
    arguments="$arguments
              - $(quoted "$word")"
done

manifest() {
    cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-50}
  replicatedJobs:
  - name: hosts
    replicas: 1
    template:
      spec:
        parallelism: $hosts
        completions: $hosts
        completionMode: Indexed
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120$selector
            containers:
            - name: run
              image: $image
              args:$arguments
              env:
              - name: JAX_COORDINATOR_ADDRESS
                value: $name-hosts-0-0.$name:8476
              - name: JAX_NUM_PROCESSES
                value: "$hosts"
              - name: JAX_PROCESS_ID
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
              resources:
                limits:
                  $resource: $chips
              volumeMounts:
              - name: runs
                mountPath: /runs
              - name: memory
                mountPath: /dev/shm
            volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: $claim
            - name: memory
              emptyDir:
                medium: Memory
END
}

if [ "$dry" ]; then
    echo "kubectl apply --filename=- <<END"
    manifest
    echo "END"
    echo "kubectl wait --for=jsonpath='{.status.terminalState}' --timeout=-1s jobset/$name"
    exit 0
fi
manifest | kubectl apply --filename=-
echo "gke: kubectl logs --follow --prefix --max-log-requests=$hosts --selector=jobset.sigs.k8s.io/jobset-name=$name"
kubectl wait --for=jsonpath='{.status.terminalState}' --timeout=-1s "jobset/$name"
end=$(kubectl get "jobset/$name" --output=jsonpath='{.status.terminalState}')
echo "gke: $end" >&2
[ "$end" = Completed ]
