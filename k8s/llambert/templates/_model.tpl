{{/* A number or text of the user's as text; Helm reads whole numbers as floats, which would become 1e+06. */}}
{{- define "llambert.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* What a `model` block names in MLflow. */}}
{{- define "llambert.model.uri" -}}
{{- $version := include "llambert.text" .version -}}
{{- if $version -}}
models:/{{ .name }}/{{ $version }}
{{- else -}}
models:/{{ .name }}@{{ .alias }}
{{- end -}}
{{- end -}}

{{/* Where a pod finds it. A fetched model is put in place by renaming, which a mount point can't be: hence /model/current. */}}
{{- define "llambert.model.path" -}}
{{- if eq .source "mlflow" }}/model/current{{ else if eq .source "pvc" }}/model{{ else }}{{ .path }}{{ end -}}
{{- end -}}

{{/* (list $ model) */}}
{{- define "llambert.model.mlflowEnv" -}}
- {name: MLFLOW_TRACKING_URI, value: {{ include "llambert.trackingUri" (first .) | quote }}}
- {name: MLFLOW_HTTP_REQUEST_MAX_RETRIES, value: "3"}
{{- end -}}

{{- define "llambert.model.mlflowEnvFrom" -}}
{{- with .existingSecret }}
- secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end -}}

{{/* (list $ model image). A pod whose node restarts runs it again, over what it left. */}}
{{- define "llambert.model.initContainers" -}}
{{- $root := index . 0 }}{{ $model := index . 1 }}{{ $image := index . 2 -}}
initContainers:
  - name: fetch
    {{- include "llambert.container" (list $root $image) | nindent 4 }}
    args:
      - sh
      - -c
      - rm -rf /model/current && exec python -m serving fetch "$1" /model/current --precision "$2"
      - fetch
      - {{ include "llambert.model.uri" $model | quote }}
      - {{ $root.Values.config.precision }}
    env:
      {{- include "llambert.env" $root | nindent 6 }}
      {{- include "llambert.model.mlflowEnv" (list $root $model) | nindent 6 }}
    {{- with include "llambert.model.mlflowEnvFrom" $model }}
    envFrom:
      {{- . | nindent 6 }}
    {{- end }}
    resources:
      {{- toYaml $model.fetchResources | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: model, mountPath: /model}
{{- end -}}

{{/* (list model readOnly) */}}
{{- define "llambert.model.mount" -}}
{{- $model := first . -}}
{{- if eq $model.source "pvc" -}}
- name: model
  mountPath: /model
  {{- with trimPrefix "/" $model.path }}
  subPath: {{ . | quote }}
  {{- end }}
  readOnly: true
{{- else if eq $model.source "mlflow" -}}
- {name: model, mountPath: /model, readOnly: {{ last . }}}
{{- end -}}
{{- end -}}

{{- define "llambert.model.volume" -}}
{{- if eq .source "pvc" -}}
- name: model
  persistentVolumeClaim: {claimName: {{ .existingClaim | quote }}, readOnly: true}
{{- else if eq .source "mlflow" -}}
- name: model
  emptyDir: {sizeLimit: {{ .sizeLimit | quote }}}
{{- end -}}
{{- end -}}
