{{/* A Job can't be changed: its name holds a hash of what it does. */}}
{{- define "llambert.bulk.name" -}}
{{- include "llambert.named" (list . (printf "bulk-%s" (include "llambert.bulk.spec" . | sha256sum | trunc 8))) -}}
{{- end -}}

{{/* Exit code 2 is the user's to mend and would come again: it ends the Job. Fetching is tried again, since MLflow may be
     away for a while. An evicted pod costs no attempt. */}}
{{- define "llambert.bulk.spec" -}}
{{- $bulk := .Values.bulk -}}
completionMode: Indexed
completions: {{ int64 $bulk.completions }}
parallelism: {{ int64 $bulk.parallelism }}
backoffLimitPerIndex: {{ int64 $bulk.backoffLimitPerIndex }}
maxFailedIndexes: {{ int64 $bulk.maxFailedIndexes }}
{{- with int64 $bulk.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ . }}
{{- end }}
{{- with int64 $bulk.ttlSecondsAfterFinished }}
ttlSecondsAfterFinished: {{ . }}
{{- end }}
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - {type: DisruptionTarget, status: "True"}
    - action: FailJob
      onExitCodes: {containerName: label, operator: In, values: [2]}
template:
  metadata:
    labels:
      {{- include "llambert.podLabels" (list . "bulk") | nindent 6 }}
  spec:
    {{- include "llambert.bulk.pod" . | nindent 4 }}
{{- end -}}

{{- define "llambert.bulk.pod" -}}
{{- $bulk := .Values.bulk -}}
{{- $model := include "llambert.over" (list .Values.model $bulk.model) | fromYaml -}}
{{- $image := include "llambert.over" (list .Values.image $bulk.image) | fromYaml -}}
{{- include "llambert.pod" . }}
restartPolicy: Never
{{- include "llambert.placement" $bulk }}
{{- if eq $model.source "mlflow" }}
{{ include "llambert.model.initContainers" (list . $model $image) }}
{{- end }}
containers:
  - name: label
    {{- include "llambert.container" (list . $image) | nindent 4 }}
    args:
      {{- include "llambert.bulk.command" (list $bulk (include "llambert.model.path" $model) .Values.config) | nindent 6 }}
    env:
      {{- include "llambert.env" . | nindent 6 }}
      - {name: JOB_COMPLETIONS, value: "{{ int64 $bulk.completions }}"}
      {{- with $bulk.storage.endpointUrl }}
      - {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
      {{- end }}
      {{- with $bulk.storage.region }}
      - {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
      {{- end }}
    {{- with $bulk.storage.existingSecret }}
    envFrom:
      - secretRef: {name: {{ . | quote }}}
    {{- end }}
    resources:
      {{- include "llambert.resources" $bulk | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- include "llambert.model.mount" (list $model true) | nindent 6 }}
      {{- if $bulk.storage.existingClaim }}
      - {name: data, mountPath: {{ $bulk.storage.mountPath | quote }}}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: {{ .Values.tmpSize | quote }}}
  {{- include "llambert.model.volume" $model | nindent 2 }}
  {{- with $bulk.storage.existingClaim }}
  - name: data
    persistentVolumeClaim: {claimName: {{ . | quote }}}
  {{- end }}
{{- end -}}

{{/* (list bulk modelPath config) */}}
{{- define "llambert.bulk.command" -}}
{{- $bulk := index . 0 }}{{ $config := index . 2 -}}
{{- $command := list "python" "-m" "serving" "label" $bulk.input $bulk.output "--model" (index . 1) -}}
{{- $command = concat $command (list "--precision" $config.precision "--runtime" $config.runtime) -}}
{{- $command = concat $command (list "--max-batch-tokens" (int64 $config.maxBatchTokens | toString) "--max-chars" (int64 $config.maxChars | toString)) -}}
{{- $command = concat $command (list "--shard-rows" (int64 $bulk.shardRows | toString)) $bulk.args -}}
{{- toYaml $command -}}
{{- end -}}
